//! Makes `frontend/dist` exist, so that a fresh clone compiles before the web app is built: the server then answers with a
//! page that says how to build it.

fn main() {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("frontend/dist");
    std::fs::create_dir_all(&dist).expect("the clone must be writable to build in it");
    println!("cargo:rerun-if-changed=frontend/dist");
}
