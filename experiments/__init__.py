"""What makes every committed number, picture and tiny weight; imports anything, nothing imports it."""
