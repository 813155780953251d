//! Compiles the `.proto` files without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "rollcall/v2/jobs.proto",
        "rollcall/v2/outcomes.proto",
        "rollcall/v2/runs.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        // Parameters are encoded in the order of their names.
        .btree_map([".rollcall.v2.Computation"])
        .compile_fds(descriptors)?;
    Ok(())
}
