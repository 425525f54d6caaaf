"""The code cache: compile regions, link them, place them, keep them between runs."""
