"""Single functions, without processes."""
