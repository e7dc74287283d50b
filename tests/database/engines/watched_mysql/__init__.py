"""MySQL, with something in between that looks on."""
