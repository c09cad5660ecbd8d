"""One literal per device; the module's name is the device's, with underscores."""
