//! trial
mod postgres;
fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let search: Vec<_> = a.get(3).map(std::path::PathBuf::from).into_iter().collect();
    let pg = postgres::open(&postgres::Options {
        data_dir: a[1].as_ref(),
        bin: std::env::var_os("DRIFTLESS_PG_BIN")
            .as_ref()
            .map(|b| b.as_ref()),
        search: &search,
        throw_away: false,
    })?;
    eprintln!("{} {:?}", pg.url, t.elapsed());
    if let Some(c) = a.get(2) {
        let s = std::process::Command::new("sh")
            .arg("-c")
            .arg(c)
            .env("DATABASE_URL", &pg.url)
            .status()?;
        eprintln!("{s}");
    }
    Ok(())
}
