//! Scores are added up as whole points, so that sums do not depend on their order and ties are ties.

/// The points of a score of 1 with a weight of 1.
pub(super) const ONE: f64 = 4_294_967_296.0;

/// Weights are kept within this, so that sums of points cannot overflow.
const MAX_WEIGHT: f64 = 1_000_000.0;

/// A weight as it counts: nothing for what is not a number, and at most a million either way.
pub(super) fn weight(weight: f64) -> f64 {
    if weight.is_nan() {
        return 0.0;
    }
    weight.clamp(-MAX_WEIGHT, MAX_WEIGHT)
}

/// A score as it counts: within 0 and 1, and 0 for what is not a number.
pub(super) fn score(score: f64) -> f64 {
    if score > 0.0 { score.min(1.0) } else { 0.0 }
}

/// What a score counts with its weight.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a million times 2^32 is far below 2^63"
)]
pub(super) fn points(weight: f64, value: f64) -> i64 {
    let points = weight * score(value) * ONE;
    // As `round` does, which is a call into the C library where the processor's instruction is not taken for granted.
    let whole = points as i64;
    let rest = points - whole as f64;
    whole + i64::from(rest >= 0.5) - i64::from(rest <= -0.5)
}

/// Points as people read them.
#[expect(
    clippy::cast_precision_loss,
    reason = "nobody reads the sixteenth digit"
)]
pub(super) fn readable(points: i64) -> f64 {
    points as f64 / ONE
}
