//! Data plane: ports, workers, caches, tables, maps, counters

pub mod cache;
pub mod classifier;
pub mod cow;
pub mod epoch;
pub mod evaluate;
pub mod learn;
pub mod limits;
pub mod maps;
pub mod publish;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod verdict;
