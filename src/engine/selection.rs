//! Finding the greatest of very many numbers without sorting them.
//!
//! Rows are gone through in blocks whose maximum the compiler can compute with vectors; a block that holds nothing of
//! interest is passed over at the speed of memory. NaN is never greater than anything.

/// Numbers to a block.
const BLOCK: usize = 512;

/// Independent maxima within a block, as many as a wide vector holds.
const LANES: usize = 16;

/// The greatest value of a block; minus infinity for none.
fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(chunks.remainder())
        .fold(f32::NEG_INFINITY, |most, &value| if value > most { value } else { most })
}

/// The index and value of the greatest, the first of them on ties; `None` where nothing is above minus infinity.
pub(super) fn argmax(values: &[f32]) -> Option<(usize, f32)> {
    let (mut greatest, mut found) = (f32::NEG_INFINITY, None);
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let most = maximum(block);
        if most > greatest {
            (greatest, found) = (most, Some((index, block)));
        }
    }
    let (index, block) = found?;
    let within = block.iter().position(|&value| value == greatest)?;
    Some((index * BLOCK + within, greatest))
}

/// The k-th greatest value, counting equal ones singly; minus infinity where there are fewer than k. `scratch` is
/// overwritten.
pub(super) fn kth_greatest(values: &[f32], k: usize, scratch: &mut Vec<f32>) -> f32 {
    scratch.clear();
    if k == 0 || k > values.len() {
        return f32::NEG_INFINITY;
    }
    // The scratch holds every value so far that may be among the k greatest. When it has twice k, the lesser half goes.
    let mut threshold = f32::NEG_INFINITY;
    for block in values.chunks(BLOCK) {
        if maximum(block) <= threshold {
            continue;
        }
        for &value in block {
            if value > threshold {
                scratch.push(value);
                if scratch.len() >= 2 * k {
                    threshold = keep_greatest(scratch, k);
                }
            }
        }
    }
    if scratch.len() < k { f32::NEG_INFINITY } else { keep_greatest(scratch, k) }
}

/// Keeps the k greatest and returns the least of them.
fn keep_greatest(values: &mut Vec<f32>, k: usize) -> f32 {
    let (_, kth, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = *kth;
    values.truncate(k);
    kth
}

/// Calls `visit` with index and value of everything that is at least `threshold` and above minus infinity.
pub(super) fn for_each_from(values: &[f32], threshold: f32, mut visit: impl FnMut(usize, f32)) {
    for (index, block) in values.chunks(BLOCK).enumerate() {
        if maximum(block) < threshold {
            continue;
        }
        for (within, &value) in block.iter().enumerate() {
            if value >= threshold && value > f32::NEG_INFINITY {
                visit(index * BLOCK + within, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_of_equal_greatest_is_chosen() {
        let mut values = vec![0.0; 2000];
        values[700] = 3.0;
        values[1900] = 3.0;
        assert_eq!(argmax(&values), Some((700, 3.0)));
    }

    #[test]
    fn nan_and_minus_infinity_are_never_chosen() {
        assert_eq!(argmax(&[f32::NAN, -5.0, f32::NAN]), Some((1, -5.0)));
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }

    proptest! {
        #[test]
        fn the_kth_greatest_is_what_sorting_gives(
            values in proptest::collection::vec((-50..50_i8).prop_map(f32::from), 1..1500),
            k in 1..100_usize,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = sorted.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY);
            let threshold = kth_greatest(&values, k, &mut Vec::new());
            prop_assert_eq!(threshold, expected);
            let mut found = 0;
            for_each_from(&values, threshold, |index, value| {
                assert_eq!(values[index], value);
                found += 1;
            });
            prop_assert_eq!(found, values.iter().filter(|value| **value >= threshold).count());
        }
    }
}
