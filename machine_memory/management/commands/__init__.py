"""The commands themselves: they parse and delegate."""
