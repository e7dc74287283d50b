"""The stores, one room each: they do not know each other, and nothing but the settings names them."""
