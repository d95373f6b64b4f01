"""From a file of records to a first declaration of its data set. Nothing here runs in a service."""
