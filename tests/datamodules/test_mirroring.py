"""Which texts forbid mirroring: sides and lettering in many languages; and which do not, or flipping would be off."""

from __future__ import annotations

import pytest

from datamodules.mirroring import forbids_mirroring

SIDES = """
make the left car red; the rightmost tree; turn it counter-clockwise; the western wall
mach das linke Auto rot; der Baum rechts; drehe es gegen den Uhrzeigersinn
rends la voiture de gauche rouge; l'arbre à droite; dans le sens horaire
pon el coche de la izquierda rojo; el árbol a la derecha
o carro da esquerda; a árvore à direita; l'auto a sinistra; l'albero di destra
maak de linker auto rood; de boom rechts; gör den vänstra bilen röd
trädet till höger; gør den venstre bil rød; træet til højre
zmień lewy samochód; drzewo po prawej; auto vlevo; strom vpravo
сделай левую машину красной; дерево справа; зроби ліву машину червоною; дерево праворуч
το αριστερό αυτοκίνητο; το δεξί δέντρο; sağdaki arabayı kırmızı yap; soldaki ağaç
tee vasemmasta autosta punainen; oikealla oleva puu; a bal oldali autó; a jobb oldali fa
ubah mobil di sebelah kiri; pohon di kanan; xe bên trái màu đỏ; cây bên phải
左の車を赤くして; 右の木; 把左边的车变红; 右邊的樹; 왼쪽 차를 빨갛게; 오른쪽 나무
اجعل السيارة اليسرى حمراء; الشجرة على اليمين; הפוך את המכונית משמאל לאדומה; העץ מימין; ماشین سمت چپ
बाईं कार को लाल करो; दाएं पेड़; รถด้านซ้าย; ต้นไม้ทางขวา; বাম দিকের গাড়ি
"""
LETTERING = """
write HELLO on the wall; change the text; a sign over the door; add a logo; a shirt that says hi
paint the licence plate
put "open" there; put 'open' there; “offen”; „offen“; « ouvert »; 「営業中」
schreib Hallo an die Wand; écris bonjour; escribe hola; escreva olá; scrivi ciao; napisz cześć; напиши привет; yaz
看板に文字を書いて; 写上你好; 벽에 글을 써 줘; اكتب مرحبا; כתוב שלום; दीवार पर लिखो; เขียนคำว่า
"""
FREE = """
make it brighter; turn the cat's fur white; it's the dog's turn; a resort by the sea; design a bright room
add fireworks
mach den Himmel blau; ändere die Farbe der Wand; rends-le plus clair; hazlo más brillante; rendi il cielo rosso
gör himlen blå; zmień kolor nieba; сделай небо синим; зроби небо синім; κάνε τον ουρανό μπλε; gökyüzünü mavi yap
車を赤くして; 把天空变蓝; 하늘을 파랗게; اجعل السيارة حمراء; הפוך את השמיים לכחולים; आसमान को नीला करो
"""


def each(texts: str) -> list[str]:
    return [text.strip() for text in texts.replace("\n", ";").split(";") if text.strip()]


@pytest.mark.parametrize("text", each(SIDES + LETTERING))
def test_sides_and_lettering_forbid_it_in_any_case(text: str) -> None:
    assert forbids_mirroring(text) and forbids_mirroring(text.upper()) and forbids_mirroring(f"please, {text}.")


@pytest.mark.parametrize("text", each(FREE))
def test_other_texts_do_not(text: str) -> None:
    assert not forbids_mirroring(text)


def test_what_cannot_be_understood_forbids_it() -> None:
    assert forbids_mirroring("வானத்தை நீலமாக்கு") and not forbids_mirroring("¿2 × 3 = 6? … – 🎉")


def test_words_of_the_user_are_added() -> None:
    assert not forbids_mirroring("vire à bâbord") and forbids_mirroring("vire à Bâbord", ["babor*"])
    assert not forbids_mirroring("the bow", ["bo"]) and forbids_mirroring("the left bow", ["bo"])
