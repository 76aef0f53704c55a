//! What a network says of one image: a score for each category.
//!
//! Scores rank the categories, and their softmax gives the probabilities. Those of one view are its logits; those of
//! several are the logarithms of probabilities, added up. Nothing ranks by probabilities: those of a network that is sure
//! of itself round to 0 and 1, and what is equal would rank by number.

/// Turns a row of logits into the logarithms of its probabilities.
pub(super) fn normalise(row: &mut [f64]) {
    let total = log_sum_exp(row);
    row.iter_mut().for_each(|score| *score -= total);
}

/// The logarithm of the sum of two numbers that `a` and `b` are the logarithms of.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (more, less) = if a > b { (a, b) } else { (b, a) };
    if less == f64::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + row.iter().map(|score| (score - most).exp()).sum::<f64>().ln()
}

/// The cross-entropy of `row` and the category `label`.
///
/// # Panics
/// If there is no such category.
pub fn loss(row: &[f64], label: usize) -> f64 {
    log_sum_exp(row) - row[label]
}

/// How many categories of `row` rank before `label`, the first of equals first. A score that is not a number ranks last.
///
/// # Panics
/// If there is no such category.
pub fn rank(row: &[f64], label: usize) -> usize {
    let own = row[label];
    let after = |(category, &score): (usize, &f64)| {
        own > score || (own == score && label < category) || (score.is_nan() && !own.is_nan())
    };
    row.iter().enumerate().filter(|&(category, score)| category != label && !after((category, score))).count()
}

/// The `count` categories of `row` that rank first, with their probabilities.
pub fn top(row: &[f64], count: usize) -> Vec<(usize, f32)> {
    let mut ranked: Vec<usize> = (0..row.len()).collect();
    ranked.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    ranked.truncate(count);
    let total = log_sum_exp(row);
    ranked.into_iter().map(|category| (category, (row[category] - total).exp() as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_categories_rank_by_their_number() {
        let row = [0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2];
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|label| rank(&row, label)), [3, 0, 1, 4, 5, 6, 2]);
        let first: Vec<usize> = top(&row, 4).into_iter().map(|(category, _)| category).collect();
        assert_eq!(first, [1, 2, 6, 0]);
        assert_eq!(top(&row, 9).len(), 7);
    }

    #[test]
    fn categories_whose_probabilities_round_to_nothing_still_rank() {
        let row = [-900.0, 0.0, -800.0, -1000.0, -850.0];
        assert_eq!(top(&row, 5), [(1, 1.0), (2, 0.0), (4, 0.0), (0, 0.0), (3, 0.0)]);
        assert_eq!([0, 1, 2, 3, 4].map(|label| rank(&row, label)), [3, 0, 1, 4, 2]);
        assert_eq!(loss(&row, 3), 1000.0);
    }

    #[test]
    fn probabilities_of_two_views_are_averaged_where_they_would_round_to_nothing() {
        let [mut a, mut b] = [[0.0, -2000.0, 1.0], [3.0, -1999.0, 0.5]];
        normalise(&mut a);
        normalise(&mut b);
        let both: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| log_add(a, b)).collect();
        let average = |i: usize| 0.5 * (a[i].exp() + b[i].exp());
        for (category, probability) in top(&both, 3) {
            assert!((f64::from(probability) - average(category)).abs() < 1e-7);
        }
        let expected = -log_add(a[1], b[1]) + std::f64::consts::LN_2;
        assert!((loss(&both, 1) - expected).abs() < 1e-9 && expected > 1990.0);
        assert_eq!(log_add(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
    }

    #[test]
    fn what_is_not_a_number_is_no_hit() {
        assert_eq!(rank(&[f64::NAN, 0.5, 0.25], 0), 2);
        assert_eq!(rank(&[f64::NAN, 0.5, 0.25], 1), 0);
        assert_eq!(rank(&[f64::NAN; 3], 0), 2);
    }
}
