"""What only passes another module's function on."""

from mmig.methods.mmig.editor import open_editor as open_editor
