//! What a configuration file says.

pub fn holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Err(error) = rollcall::config_file::check(text) {
        let said = error.to_string();
        assert!(!said.contains('\n'), "{said:?}");
    }
}
