"""The embedded stack: real servers and all roles on one machine, behind `fanfold up`."""
