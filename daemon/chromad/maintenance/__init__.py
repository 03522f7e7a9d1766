"""What is done to data as a whole: adopted, repaired, brought to another version."""
