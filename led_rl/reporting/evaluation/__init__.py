"""An evaluation's folder as a page with its samples, as logs and as exports."""
