"""Trainers of the three frameworks behind one interface, and the data they train on."""
