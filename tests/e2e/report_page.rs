//! `report.html` as people meet it: in a browser, with mouse and keyboard.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::processes::{data_set, finish, folder, report, rollcall};

const TWELVE_COUNTRIES: [&str; 4] = ["--rows", "40000", "--countries", "12"];

/// Writes what a run of this data set leaves behind.
#[track_caller]
fn run(out: &Path, data_set: &Path, options: &[&str]) {
    let mut command = rollcall();
    command.args(["run", "--quiet"]).arg(data_set).args(options);
    command.arg("--out").arg(out);
    finish(command).expect_code(0);
}

#[track_caller]
fn make_page_again(out: &Path, code: i32) -> String {
    let mut command = rollcall();
    command.arg("report").arg(out);
    let finished = finish(command).expect_code(code);
    finished.stdout + &finished.stderr
}

/// The page of a folder, which has neither complained nor asked for anything but itself.
#[track_caller]
fn open(out: &Path) -> Chromium {
    let mut browser = Chromium::start();
    browser.open(&out.join("report.html"));
    assert_quiet(&mut browser);
    browser
}

#[track_caller]
fn assert_quiet(browser: &mut Chromium) {
    assert_eq!(browser.complaints(), Vec::<Value>::new());
    let requests = browser.requests();
    let elsewhere: Vec<_> = requests
        .iter()
        .filter(|url| {
            !["file:", "data:", "blob:"]
                .iter()
                .any(|own| url.starts_with(own))
        })
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// A picture of the chart as text; equal pictures are equal texts.
const CHART: &str = "document.querySelector('#plot canvas').toDataURL()";

/// Pixels of the chart that something was drawn on.
const DRAWN: &str = "(() => { const canvas = document.querySelector('#plot canvas'); \
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); \
    return data.filter((value, at) => at % 4 === 3 && value > 0).length; })()";

const WHAT_IS_HEARD: &str = "document.getElementById('plot').getAttribute('aria-valuetext')";

#[test]
fn charts_are_drawn_and_follow_what_is_chosen() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &[]);
    let mut page = open(out.path());

    assert!(page.value(DRAWN).as_u64() > Some(1_000));
    let counts = "[...document.querySelectorAll('#multiples .small-line')] \
        .filter(path => path.getAttribute('d').length > 100).length";
    assert_eq!(
        page.value(counts),
        12,
        "each country has its small multiple"
    );

    let before = page.text(CHART);
    let country =
        page.text("document.querySelector('.choice input:not(:checked) ~ bdi').textContent");
    page.click(".choice input:not(:checked)");
    page.wait_for(&format!("{WHAT_IS_HEARD}.includes({country:?})"));
    assert_ne!(page.text(CHART), before, "another line is drawn");
    let pressed = "[...document.querySelectorAll('.multiple[aria-pressed=true] bdi')] \
        .map(name => name.textContent)";
    let pressed = page.value(pressed);
    assert!(
        pressed
            .as_array()
            .is_some_and(|all| all.contains(&json!(country)))
    );

    // A small multiple takes it out again.
    page.value(&format!(
        "[...document.querySelectorAll('.multiple')] \
         .find(one => one.querySelector('bdi').textContent === {country:?}).click()"
    ));
    page.wait_for(&format!("!{WHAT_IS_HEARD}.includes({country:?})"));
    assert_eq!(page.text(CHART), before);

    page.click("input[value=month] + span");
    page.wait_for("document.getElementById('mean').disabled");
    assert_ne!(page.text(CHART), before, "months are drawn");
    assert_quiet(&mut page);
}

#[test]
fn what_is_hovered_and_heard_is_what_the_series_has() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(
        out.path(),
        &data_set,
        &["--engine", "local", "--grain-out", "month"],
    );
    let by_month = fs::read_to_string(out.path().join("series-month.csv")).expect("a series");
    let line = by_month.lines().nth(1).expect("a group");
    let [country, _, tests, _, rate] = line.split(',').collect::<Vec<_>>()[..] else {
        panic!("{line}");
    };
    let rate: f64 = rate.parse().expect("a rate");
    let expected = format!("{country}: {:.1} % of {tests} tests", 100.0 * rate);

    let mut page = open(out.path());
    let address =
        format!("'show=' + encodeURIComponent(JSON.stringify([{country:?}])) + '&grain=month'");
    page.value(&format!("location.hash = {address}"));
    page.wait_for("document.querySelectorAll('.chip').length === 1");
    page.value("document.getElementById('plot').focus()");
    page.press("Home", 36);
    page.wait_for(&format!("{WHAT_IS_HEARD}.endsWith({expected:?})"));
    let shown = page.text("document.getElementById('tip').innerText");
    assert!(shown.contains(&format!("{:.1} %", 100.0 * rate)), "{shown}");
    assert!(shown.contains(tests), "{shown}");
    page.press("Escape", 27);
    page.wait_for("document.getElementById('tip').hidden");
    page.point_at("#plot .u-over");
    page.wait_for("!document.getElementById('tip').hidden");
    assert_quiet(&mut page);
}

#[test]
fn the_table_is_sorted_searched_and_downloaded() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--engine", "local"]);
    let mut page = open(out.path());
    let column = |number: u32| {
        format!(
            "[...document.querySelectorAll('#table tbody tr')] \
             .map(row => row.children[{number}].textContent)"
        )
    };
    let numbers = |values: Value| -> Vec<u64> {
        let values = values.as_array().expect("cells").clone();
        let number = |value: &Value| value.as_str()?.replace(',', "").parse().ok();
        values.iter().filter_map(number).collect()
    };
    let most_first = numbers(page.value(&column(1)));
    assert_eq!(most_first.len(), 12);
    assert!(most_first.is_sorted_by(|one, next| one >= next));
    page.click("[data-sort=tests]");
    page.wait_for("document.querySelector('th[aria-sort=ascending]') !== null");
    let fewest_first = numbers(page.value(&column(1)));
    assert!(fewest_first.is_sorted(), "{fewest_first:?}");
    let focused = page.text("document.activeElement.dataset.sort");
    assert_eq!(focused, "tests", "the keyboard stays where it was");

    let first = page.text(&format!("{}[0]", column(0)));
    page.value(&format!(
        "(() => {{ const search = document.getElementById('table-search'); \
         search.value = {first:?}; search.dispatchEvent(new Event('input')); }})()"
    ));
    let found = page.value(&column(0));
    assert!(
        found
            .as_array()
            .is_some_and(|all| all.contains(&json!(first)) && all.len() < 12)
    );

    // What is shown, as CSV with the figures that the run has.
    let csv = page.text("tableAsCsv()");
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines[0].starts_with("country,tests,positive,rate,wilson_low,wilson_high,"));
    assert!(
        lines[1].starts_with(&format!("{first},{},", fewest_first[0])),
        "{csv}"
    );
    let folder = folder();
    let place = json!({ "behavior": "allow", "downloadPath": folder.path() });
    page.call("Page.setDownloadBehavior", place);
    page.click("#table-download");
    let file = folder.path().join("rollcall-table.csv");
    crate::processes::wait_until("the file is there", || {
        fs::read_to_string(&file).is_ok_and(|text| text == csv)
    });
    assert_quiet(&mut page);
}

#[test]
fn hostile_labels_are_shown_and_do_nothing() {
    let labels = [
        "</script><script>window.harm = 1</script>",
        "<img src=x onerror='window.harm = 2'>",
        "\"><svg onload=window.harm=3>",
        "<!-- {{scripts}} ]]> --><style>*{display:none}</style>",
        "\u{202e}abc\u{2028}d",
        "=cmd|' /C calc'!A0",
        "",
    ];
    let folder = folder();
    let data_set = folder.path().join("hostile.csv");
    let mut text = "<b>label</b>,test_date,result\n".to_owned();
    for label in labels {
        for day in 1..=20 {
            let label = label.replace('"', "\"\"");
            text += &format!("\"{label}\",2020-03-{day:02}T10:00:00,positive\n");
        }
    }
    fs::write(&data_set, text).expect("written");
    let out = folder.path().join("out");
    run(
        &out,
        &data_set,
        &["--engine", "local", "--by", "<b>label</b>"],
    );
    let mut page = open(&out);
    assert_eq!(page.value("window.harm ?? null"), Value::Null);
    let shown = page
        .value("[...document.querySelectorAll('#table td.text')].map(cell => cell.textContent)");
    let shown = shown.as_array().expect("cells");
    for label in labels {
        let label = if label.is_empty() { "(empty)" } else { label };
        assert!(shown.contains(&json!(label)), "{label} is not in {shown:?}");
    }
    let title = page.text("document.querySelector('h1').textContent");
    assert_eq!(title, "Positivity rate by <b>label</b>");
    assert_quiet(&mut page);
}

#[test]
fn any_labels_and_grains_have_a_page() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let cases: [(&[&str], usize, u64); 4] = [
        (&["--by", "", "--every", "week"], 0, 1),
        (&["--by", "", "--every", "hour"], 0, 1),
        (
            &["--by", "country", "--by", "result", "--every", "month"],
            24,
            24,
        ),
        (&["--by", "result", "--every", "day"], 2, 2),
    ];
    let mut page = Chromium::start();
    for (options, multiples, rows) in cases {
        let out = folder();
        run(
            out.path(),
            &data_set,
            &[options, &["--engine", "local"]].concat(),
        );
        page.open(&out.path().join("report.html"));
        assert_quiet(&mut page);
        assert!(page.value(DRAWN).as_u64() > Some(500), "{options:?}");
        let count = "document.querySelectorAll('.multiple').length";
        assert_eq!(page.value(count), multiples, "{options:?}");
        let count = "document.querySelectorAll('#table tbody tr').length";
        assert_eq!(page.value(count), rows, "{options:?}");
    }
}

const OPERABLE: &[&str] = &[
    "button",
    "checkbox",
    "radio",
    "slider",
    "searchbox",
    "combobox",
];

#[test]
fn everything_that_can_be_operated_has_a_name() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--engine", "local"]);
    let mut page = open(out.path());
    page.call("Accessibility.enable", json!({}));
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes");
    let mut seen = BTreeSet::new();
    for node in nodes.iter().filter(|node| node["ignored"] == false) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if [OPERABLE, &["link", "region", "table"]]
            .concat()
            .contains(&role)
        {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.trim().is_empty(), "{node:#}");
            seen.insert(role.to_owned());
        }
    }
    for &role in OPERABLE {
        assert!(seen.contains(role), "{role} is not in {seen:?}");
    }
    // Tab comes by the chart.
    page.value("document.querySelector('.skip').focus()");
    let mut stops = Vec::new();
    for _ in 0..20 {
        page.press("Tab", 9);
        stops.push(page.text("document.activeElement.id || document.activeElement.className"));
    }
    assert!(stops.iter().any(|stop| stop.contains("plot")), "{stops:?}");
}

#[test]
fn a_list_however_long_is_one_stop_of_the_tab_key_and_arrow_keys_go_along_it() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--engine", "local"]);
    let mut page = open(out.path());
    page.value("document.querySelector('.skip').focus()");
    let mut stops = Vec::new();
    // The last stops are the links of the footer.
    while stops.last().is_none_or(|stop| stop != "footer") {
        page.press("Tab", 9);
        let stop = "document.activeElement.closest('#choices, #multiples, footer, body')";
        stops.push(page.text(&format!("{stop}.id || {stop}.localName")));
        assert!(stops.len() < 60, "{stops:?}");
    }
    for list in ["choices", "multiples"] {
        let stops = stops.iter().filter(|&stop| stop == list).count();
        assert_eq!(stops, 1, "{list}");
    }

    let at = "[...document.querySelectorAll('.multiple')].indexOf(document.activeElement)";
    page.value("document.querySelector('.multiple[tabindex=\"0\"]').focus()");
    let in_a_row = "(([first, ...others]) => 1 + others.filter(other => other.offsetTop === \
         first.offsetTop).length)([...document.querySelectorAll('.multiple')])";
    let in_a_row = page.value(in_a_row).as_u64().expect("a number");
    assert!((2..12).contains(&in_a_row), "{in_a_row}");
    let moves = [
        ("ArrowLeft", 37, 0),
        ("ArrowRight", 39, 1),
        ("ArrowDown", 40, 1 + in_a_row),
        ("ArrowUp", 38, 1),
        ("End", 35, 11),
        ("ArrowRight", 39, 11),
    ];
    for (key, code, place) in moves {
        page.press(key, code);
        assert_eq!(page.value(at), place, "{key}");
    }
    page.press("Tab", 9);
    assert_eq!(page.value(at), -1, "the next stop is another thing");

    // In another order the stop is where it was, and a click brings it along.
    let stop = "[...document.querySelectorAll('.multiple[tabindex=\"0\"] bdi')] \
         .map(name => name.textContent).join()";
    let last = page.text(stop);
    page.value(
        "(() => { const order = document.getElementById('multiples-order'); order.value = 'tests'; \
         order.dispatchEvent(new Event('change')); })()",
    );
    assert_eq!(page.text(stop), last);
    page.click(".multiple:nth-child(4)");
    let fourth = page.text("document.querySelector('.multiple:nth-child(4) bdi').textContent");
    assert_eq!(page.text(stop), fourth);
    assert_eq!(page.value(at), 3, "the keyboard stays where it was");

    // The list is filled anew when something is chosen, and the keyboard stays where it was.
    let choice = "document.activeElement.dataset.id + document.activeElement.tabIndex";
    page.value("document.querySelector('#choices input[tabindex=\"0\"]').focus()");
    page.press("ArrowDown", 40);
    let second = page.text("document.querySelectorAll('#choices input')[1].dataset.id");
    page.value("document.activeElement.click()");
    assert_eq!(page.text(choice), second + "0");
    assert_quiet(&mut page);
}

#[test]
fn the_bars_of_the_table_begin_below_each_other() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--engine", "local"]);
    let mut page = open(out.path());
    let cells = "[...document.querySelectorAll('#table .bar')] \
         .map(bar => [bar.getBoundingClientRect().left, bar.closest('td').innerText.trim().length])";
    let cells = page.value(cells);
    let cells = cells.as_array().expect("bars");
    assert_eq!(cells.len(), 12);
    let column = |of: usize| -> BTreeSet<String> {
        let values = cells.iter().map(|cell| cell[of].to_string());
        values.collect()
    };
    assert_eq!(column(0).len(), 1, "{cells:?}");
    assert!(column(1).len() > 1, "figures of two lengths: {cells:?}");
}

#[test]
fn a_page_made_again_is_the_page_of_the_run() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--workers", "2"]);
    let page = out.path().join("report.html");
    let of_the_run = fs::read(&page).expect("a page");
    let report = fs::read(out.path().join("report.json")).expect("a report");
    for gone in ["report.html", "series.parquet"] {
        fs::remove_file(out.path().join(gone)).expect("it was there");
        let said = make_page_again(out.path(), 0);
        assert!(said.contains("report.html"), "{said}");
        assert!(fs::read(&page).expect("a page") == of_the_run);
    }
    assert!(fs::read(out.path().join("report.json")).expect("it stays") == report);

    let series = out.path().join("series.csv");
    let text = fs::read_to_string(&series).expect("a series");
    let (shorter, _) = text.trim_end().rsplit_once('\n').expect("lines");
    fs::write(&series, format!("{shorter}\n")).expect("written");
    let said = make_page_again(out.path(), 1);
    assert!(said.contains("they are not of the same run"), "{said}");
    assert!(fs::read(&page).expect("it stays") == of_the_run);
    fs::remove_file(series).expect("it was there");
    assert!(make_page_again(out.path(), 2).contains("neither series.parquet nor series.csv"));
    fs::remove_file(out.path().join("report.json")).expect("it was there");
    assert!(make_page_again(out.path(), 2).contains("name the output folder of a run"));
}

#[test]
fn a_run_that_is_not_complete_says_so_on_its_page() {
    let data_set = data_set(&TWELVE_COUNTRIES);
    let out = folder();
    run(out.path(), &data_set, &["--workers", "2"]);
    let whole = report(out.path());
    let mut page = Chromium::start();
    let mut open_changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = whole.clone();
        change(&mut changed);
        fs::write(out.path().join("report.json"), changed.to_string()).expect("written");
        make_page_again(out.path(), 0);
        page.open(&out.path().join("report.html"));
        assert_quiet(&mut page);
        page.text("document.body.innerText")
    };

    let missing = open_changed(&|report| {
        report["status"] = json!("incomplete");
        report["jobs"]["missing"] = json!(2_500);
        report["missing"] = (0..1_000).collect();
    });
    assert!(
        missing.contains("This run is incomplete: 2,500 of"),
        "{missing}"
    );
    assert!(missing.contains("The first 100 of 2,500"), "{missing}");

    let dead = open_changed(&|report| {
        report["status"] = json!("complete-with-dead-letters");
        report["jobs"]["dead_lettered"] = json!(1);
        report["dead_letters"] = json!([{
            "index": 17, "labels": ["<i>Chile</i>"], "time": "2020-03-01T00:00:00", "part": 0,
            "rows": 2, "attempts": 3, "reason": "no luck"
        }]);
    });
    assert!(dead.contains("1 job could not be computed"), "{dead}");
    assert!(
        dead.contains("<i>Chile</i>") && dead.contains("no luck"),
        "{dead}"
    );

    let failed = open_changed(&|report| {
        report["status"] = json!("failed");
        report["reconciliation"][1]["holds"] = json!(false);
        report["reconciliation"][1]["found"] = json!("7");
    });
    assert!(failed.contains("Do not trust the figures"), "{failed}");
    assert!(failed.contains(", found 7"), "{failed}");

    // A dispatcher that died before its manifest: nothing is known, and nothing is 0.
    let nothing = open_changed(&|report| {
        report["status"] = json!("incomplete");
        for part in ["manifest", "rate", "tests", "positive"] {
            report[part] = Value::Null;
        }
        report["series"] = json!({ "rows": null, "sha256": null });
        report["jobs"] = json!({});
        report["workers"] = json!([]);
    });
    assert!(
        nothing.contains("never said how many jobs it has"),
        "{nothing}"
    );
    assert!(nothing.contains("No test was counted."), "{nothing}");
    let unknown = page.value(
        "[...document.querySelectorAll('.receipt-line dd')].map(value => value.textContent)",
    );
    let unknown = unknown.as_array().expect("values").clone();
    assert!(
        unknown
            .iter()
            .all(|value| value == "unknown" || value == "–"),
        "{unknown:?}"
    );
}
