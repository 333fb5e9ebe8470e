//! Every end-to-end suite runs on every rung of the capability ladder, with one and with two workers.

/// Makes a module of tests for each named function `fn(Setup)`: one test per rung and number of workers, its name
/// being the printed matrix.
#[macro_export]
macro_rules! on_every_rung {
    ($($suite:ident),+ $(,)?) => {$(
        mod $suite {
            $crate::on_every_rung! {
                @ $suite
                rung_single_one_worker = 0,
                rung_single_two_workers = 1,
                rung_batch_one_worker = 2,
                rung_batch_two_workers = 3,
                rung_segment_one_worker = 4,
                rung_segment_two_workers = 5,
                rung_tunnel_one_worker = 6,
                rung_tunnel_two_workers = 7
            }
        }
    )+};
    (@ $suite:ident $($test:ident = $index:literal),+) => {$(
        #[test]
        fn $test() {
            if $crate::may_run() {
                super::$suite($crate::Setup::MATRIX[$index]);
            }
        }
    )+};
}
