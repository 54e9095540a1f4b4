"""A plugin of the tests: one model for every peculiarity that loading must cope with."""
