//! The places of the labels beside the plot of a picture.

/// The places of labels, moved as little as possible so that they are `pitch` apart and between `least`
/// and `most`, in the order of the wanted places. Where there is no room for all, the last ones are
/// beyond `most`.
pub(super) fn spread(wanted: &[i32], pitch: i32, least: i32, most: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&number| wanted[number]);
    // Neighbours that are too near are one block, with its middle at their mean.
    let mut blocks: Vec<(i32, i32, Vec<usize>)> = Vec::new();
    for number in order {
        let mut block = (wanted[number], wanted[number], vec![number]);
        loop {
            let height = pitch * (block.2.len() as i32 - 1);
            let highest = (most - height).max(least);
            block.0 = (block.1 / block.2.len() as i32 - height / 2).clamp(least, highest);
            match blocks.last() {
                Some(above) if above.0 + pitch * above.2.len() as i32 > block.0 => {}
                _ => break,
            }
            if let Some((_, sum, mut members)) = blocks.pop() {
                members.append(&mut block.2);
                block = (0, sum + block.1, members);
            }
        }
        blocks.push(block);
    }
    let mut places = vec![0; wanted.len()];
    for (start, _, members) in blocks {
        for (position, number) in (0..).zip(members) {
            places[number] = start + pitch * position;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_apart_and_stay_beside_the_plot() {
        assert_eq!(spread(&[100, 200, 300], 20, 0, 400), [100, 200, 300]);
        assert_eq!(spread(&[105, 100, 300], 20, 0, 400), [112, 92, 300]);
        assert_eq!(spread(&[400, 399, 398], 20, 0, 400), [400, 380, 360]);
        assert_eq!(spread(&[0, 0, 25], 20, 0, 400), [0, 20, 40]);
        assert_eq!(spread(&[], 20, 0, 400), [0; 0]);
    }
}
