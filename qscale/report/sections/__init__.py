"""The sections of the page, a file each: a function of the sources gives plain values."""
