"""Public data sets as arrays, read from the forms in which they are published."""
