//! The weft binary: every subcommand, printing, the lab
