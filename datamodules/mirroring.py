"""Texts beside which a picture must not be mirrored: those that name a side or ask for lettering, in common languages.

A text in a script that is not among these languages' says nothing that can be understood here, so that its picture is
never mirrored either. A word too many costs a mirrored picture; a missing one teaches that left is right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# whole words; with * beginnings of words
_SIDES = """
left* right* clockwise anticlockwise counterclockwise east* west*
links* linke linker linkes linken linkem rechts* rechte rechter rechtes rechten rechtem uhrzeiger*
gauche* droit droite droits droites horaire antihoraire
izquierd* derecha derechas derecho derechos diestr* siniestr* horario antihorario
esquerd* direita direitas direito direitos
sinistr* destra destre destro destri orario antiorario
esquerr* dret dreta drets dretes
stang* dreapt* drept
linker* linkse rechtse rechterkant rechterzijde
vanst* hoger* hogra venstr* hojre* højre* høyre* hoyre*
vinstri hægri
vasem* vasen oikea* oikei* oikeal*
vasak* parem*
bal balra baloldal* balos jobb jobbra jobboldal* jobbos
lewy lewa lewe lewej lewo lewym lewą lewego lewicy prawy prawa prawe prawej prawo prawym prawą prawego
levy leva leve levou levem leveho vlevo nalevo doleva zleva lavy lava lavej vlavo nalavo
pravy prava prave pravou pravem praveho vpravo napravo doprava zprava pravej
lijev* ljev* lijevo lev levo desn*
sol sola solda soldaki soldan solu solunu sag saga sagda sagdaki sagdan sagi
kiri kanan trai phai kaliwa kanan kushoto kulia
лев* слева влево налево прав* справа вправо направо часов*
лів* злів* вліво ліворуч праворуч вправо
ляв* вляво дясн* вдясно десн*
αριστερ* δεξι*
"""
_LETTERING = """
text* letter letters lettering lettered word words wording write writes writing written wrote spell* spelt
sign signs signage signboard* signpost* logo* label* caption* title* headline* inscription* inscribe* engrave* slogan*
says say saying reads quote* number* digit* numeral* plate plates banner* poster* billboard* newspaper* magazine*
graffiti calligraph* typograph* font fonts watermark* monogram* initials signature* clock* watch watches calendar*
map maps keyboard* barcode* alphabet*
schreib* schrift* beschrift* wort worte worter buchstabe* aufschrift* schild* zahl zahlen ziffer* nummer* uhr plakat*
ecri* mot mots lettre lettres texte* panneau* affiche* chiffre* numero* enseigne* horloge*
escrib* escrit* palabra* letra* texto* letrero* cartel* numero* rotul* reloj*
escrev* escrit* palavra* placa*
scriv* scritt* parola parole lettera lettere testo cartell* insegna scritta orologio
scrie* scris* cuvant* liter* semn
schrijf* tekst* woord* bord borden letter*
skriv* ord ordet text* skylt* skilt* bokstav* bogstav* kirjoita* teksti* sana sanan
napis* litery slow* słow* tekst* znak
napis* pismen* slov* text*
yaz* harf* kelime* metin* tabela*
tulis* teks* kata huruf* viet chu
напиш* надпис* текст* букв* слов* знак* вывеск* напис* літер* номер* числ* цифр*
γραψ* γραμμα* κειμεν* λεξη* πινακιδ*
"""
# scripts without spaces, or with particles that grow on words: wherever they stand
_ANYWHERE = """
左 右 東 西 东 時計 时针 時針 字 文 書 书 写 寫 看板 標誌 标志 招牌 数字 數字 ロゴ テキスト 句
왼 오른 좌측 우측 좌 우측 시계 글 문자 단어 텍스트 쓰 적어 간판 숫자
يسار يسرى أيسر يمين يمنى أيمن شمال اكتب كتاب كتب نص حرف أحرف كلمة كلمات لافتة شعار ساعة
שמאל ימין ימני כתוב כתב טקסט מילה מילים אותיות שלט לוגו
چپ راست بنویس نوشت متن بائیں دائیں لکھ
बाएं बाएँ बायें बाईं बायां बाएं दाएं दाएँ दायें दाईं दायां लिख अक्षर शब्द पाठ
বাম ডান লেখ লিখ অক্ষর শব্দ
ซ้าย ขวา เขียน ตัวอักษร ข้อความ คำว่า ป้าย
"""
_QUOTED = re.compile(r"[\"“”„‟«»‹›「」『』《》〈〉＂]|(?<!\w)['‘`‚]\w[^'’`]*['’`](?!\w)")
_SCRIPTS = """
LATIN CYRILLIC GREEK HEBREW ARABIC DEVANAGARI BENGALI THAI CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA HANGUL IDEOGRAPHIC
FULLWIDTH HALFWIDTH MICRO FEMININE MASCULINE MODIFIER MATHEMATICAL
"""


def forbids_mirroring(text: str, further: Sequence[str] = ()) -> bool:
    """Whether a picture beside this text must not be mirrored.

    It names a side or a sense of rotation, asks for lettering (also: anything in quotation marks), has a letter of a
    script that none of the known languages has, or one of the words `further`. Case and accents do not count.

    Args:
        text: any.
        further: words of the user, `*` at their end for beginnings of words.
    """
    if _QUOTED.search(text):
        return True
    plain = _plain(text)
    known, anywhere, own = _pattern(_SIDES + _LETTERING), _substrings(), _pattern(" ".join(further))
    if known.search(plain) or (further and own.search(plain)):
        return True
    return not plain.isascii() and (anywhere.search(plain) is not None or not _is_known(plain))


def _plain(text: str) -> str:
    """Small letters without accents, in one spelling."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def _is_known(text: str) -> bool:
    return all(_script(letter) in _SCRIPTS.split() for letter in set(text) if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


@lru_cache(maxsize=16)
def _pattern(words: str) -> re.Pattern[str]:
    """Finds any of these words in a plain text."""
    found = sorted({_plain(word) for word in words.split()})
    whole = "|".join(re.escape(word) for word in found if not word.endswith("*"))
    begun = "|".join(re.escape(word[:-1]) for word in found if word.endswith("*"))
    return re.compile(rf"(?<!\w)(?:(?:{whole or '(?!)'})(?!\w)|(?:{begun or '(?!)'}))")


@lru_cache(maxsize=1)
def _substrings() -> re.Pattern[str]:
    return re.compile("|".join(sorted({re.escape(_plain(word)) for word in _ANYWHERE.split()})))
