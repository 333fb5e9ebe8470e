//! Data plane: ports, workers, caches, tables, maps, counters
