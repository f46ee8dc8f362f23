"""Reports: what finished runs show, as tables and pictures. Reads records only; imports no torch."""
