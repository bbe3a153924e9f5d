"""Pure decisions: values in, a value out; no await, no clock, no files."""
