//! Weighted random choice in constant time: one 32-bit draw, one multiplication, one comparison. A
//! row's country, day, hour and age are drawn with it.

use crate::random::{DRAWS, scale};

/// Vose's alias table (M. D. Vose, "A linear algorithm for generating random numbers with a given
/// distribution", doi:10.1109/32.92917).
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The slot itself is picked when the rest of the draw is below this, else `otherwise`.
    keep_below: u32,
    otherwise: u32,
}

impl Alias {
    /// A table that picks `i` in proportion to `weights[i]`. `weights` is not empty, and every
    /// weight is positive.
    pub(crate) fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        debug_assert!(total > 0.0, "something can be picked");
        let mut share: Vec<f64> = weights
            .iter()
            .map(|weight| weight / total * weights.len() as f64)
            .collect();
        let mut slots: Vec<Slot> = (0..weights.len())
            .map(|position| Slot {
                keep_below: u32::MAX,
                otherwise: position as u32,
            })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&position| share[position] < 1.0);
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            slots[poor] = Slot {
                keep_below: (share[poor] * DRAWS) as u32,
                otherwise: rich as u32,
            };
            share[rich] -= 1.0 - share[poor];
            if share[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Self { slots }
    }

    /// The position for a draw, which is uniform over all `u32`.
    #[inline]
    pub(crate) fn pick(&self, draw: u32) -> usize {
        // The high half of the product is the slot; the low half is again nearly uniform.
        let (position, rest) = scale(draw, self.slots.len() as u32);
        let slot = self.slots[position as usize];
        if rest < slot.keep_below {
            position as usize
        } else {
            slot.otherwise as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_in_proportion_to_the_weights() {
        let weights = [1.0, 5.0, 0.5, 2.5, 1.0];
        let table = Alias::new(&weights);
        let mut picked = [0u32; 5];
        let step = 4099;
        for draw in (0..=u32::MAX).step_by(step) {
            picked[table.pick(draw)] += 1;
        }
        let draws = f64::from(picked.iter().sum::<u32>());
        for (weight, picked) in weights.iter().zip(picked) {
            let share = f64::from(picked) / draws;
            assert!((share - weight / 10.0).abs() < 1e-4, "{weight}: {share}");
        }
    }

    #[test]
    fn a_single_weight_is_always_picked() {
        let table = Alias::new(&[0.3]);
        assert_eq!(table.pick(0), 0);
        assert_eq!(table.pick(u32::MAX), 0);
    }
}
