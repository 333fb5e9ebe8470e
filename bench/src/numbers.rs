//! Medians and quantiles of measured figures.

/// The middle of the figures, the mean of the middle two of an even number; not a number when there are none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest figure that at least `share` (0 to 1) of all do not exceed; sorts them. `None` when there are none.
pub(crate) fn quantile(figures: &mut [u64], share: f64) -> Option<u64> {
    figures.sort_unstable();
    let rank = (share * figures.len() as f64).ceil().max(1.0) as usize;
    figures.get(rank - 1).or(figures.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_quantile_is_the_figure_that_a_slow_count_finds() {
        let figures: Vec<u64> = (0..997).map(|i| i * 7919 % 1000).collect();
        for share in [0.0, 0.01, 0.5, 0.9, 0.99, 1.0] {
            let found = quantile(&mut figures.clone(), share).unwrap();
            let enough = |x: u64| figures.iter().filter(|f| **f <= x).count() as f64 >= share * figures.len() as f64;
            let slow = figures.iter().copied().filter(|x| enough(*x)).min().unwrap();
            assert_eq!(found, slow, "{share}");
        }
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
