"""Reports: figures and tables of run folders."""
