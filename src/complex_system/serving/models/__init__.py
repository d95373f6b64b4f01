"""The models that are served: where they come from, how they are loaded, swapped and run. Nothing here knows HTTP."""
