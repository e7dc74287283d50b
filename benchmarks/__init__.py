"""Side by side with peers and with the raw driver, in one run; ``models`` are the tables that peers keep."""
