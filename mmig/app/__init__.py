"""A page in the browser for any editor: `python -m mmig.app`. A leaf: nothing imports it, and it may be deleted.

It knows `mmig.editor.Editor`, what edit.py does (`mmig.run.edit`), and the schema of the data, and no method. An edit
on the page is the command of edit.py that stands below it: the same words, parsed by the same parser, run by the same
function on an editor that is open already.
"""
