"""Makes records of single readings, as `collect` declares it, and joins the labels that come later."""
