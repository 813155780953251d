//! The rules by which fields become rows, and the numbers of their labels: lines of three fields.

use std::collections::HashMap;

use computations::Registry;
use dispatcher::records::Records;
use dispatcher::source::rules::{RowTime, Rules};
use dispatcher::timestamp::TimeFormat;
use dispatcher::{Selection, payload_columns};
use pipeline::Grain;
use pipeline::group_key::MAX_LABEL_BYTES;

use super::csv_to_jobs::grouping;

pub fn holds(input: &[u8]) {
    let mut grouping = grouping(Grain::Hour);
    grouping.label_columns.push("city".to_owned());
    let time = TimeFormat::default();
    let selection = Selection {
        grouping: &grouping,
        payload: &payload_columns(&grouping, &Registry::standard()).expect("it is known"),
    };
    let mut rules = Rules::new(selection, &time);
    let mut records = Records::new(selection.payload.width());
    let mut numbers: HashMap<Vec<&[u8]>, u32> = HashMap::new();
    for line in input.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.splitn(3, |&byte| byte == b',').collect();
        let [label, city, time] = fields[..] else {
            continue;
        };
        let labels = vec![label, city];
        let values = [b"positive".as_slice()].into_iter();
        let (own, time) = (labels.iter().copied(), RowTime::Text(time));
        let validated = rules.validate(own, time, values, &mut records);
        if let Ok(row) = validated {
            assert!(label.len() + city.len() <= MAX_LABEL_BYTES);
            let set = &rules.label_sets()[row.label_set as usize];
            assert!(
                set.values
                    .iter()
                    .map(String::as_bytes)
                    .eq(labels.iter().copied())
            );
            let number = *numbers.entry(labels).or_insert(row.label_set);
            assert_eq!(number, row.label_set);
        }
    }
    assert_eq!(rules.into_label_sets().len(), numbers.len());
}
