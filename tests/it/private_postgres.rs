//! The private Postgres below the data folder: made once, shared by processes, stopped by the last, adopted after a crash.

use rustix::process::Signal;

use crate::support::{
    binary::{DataDir, Process, kill},
    ready, until,
};

#[tokio::test]
async fn server_and_worker_on_one_data_folder_share_a_cluster_that_the_last_one_stops() {
    let data = DataDir::new();
    let (server, _) = Process::serve(&data.path(), &[]);
    let postmaster = data.postmaster().expect("the private Postgres runs");
    let worker = Process::work(&data.path(), &[]);
    assert!(server.terminate().success());
    assert_eq!(data.postmaster(), Some(postmaster), "the worker still uses it");
    let (server, base) = Process::serve(&data.path(), &[]);
    assert!(worker.terminate().success());
    assert_eq!(data.postmaster(), Some(postmaster), "the server still uses it");
    ready(&base).await;
    assert!(server.terminate().success());
    assert_eq!(data.postmaster(), None);
}

#[tokio::test]
async fn two_first_starts_at_once_make_one_cluster() {
    let data = DataDir::new();
    let folder = data.path();
    let other = folder.clone();
    let starts = [folder, other].map(|folder| tokio::task::spawn_blocking(move || Process::serve(&folder, &[])));
    let mut processes = Vec::new();
    for start in starts {
        let (process, base) = start.await.unwrap();
        ready(&base).await;
        processes.push(process);
    }
    for process in processes {
        assert!(process.terminate().success());
    }
    assert_eq!(data.postmaster(), None);
}

#[tokio::test]
async fn a_killed_server_leaves_a_cluster_that_its_successor_adopts() {
    let data = DataDir::new();
    let (first, _) = Process::serve(&data.path(), &[]);
    let postmaster = data.postmaster();
    first.kill();
    let (second, base) = Process::serve(&data.path(), &[]);
    assert_eq!(data.postmaster(), postmaster);
    ready(&base).await;
    assert!(second.terminate().success());
    assert_eq!(data.postmaster(), None);
}

#[tokio::test]
async fn after_a_power_cut_the_next_start_recovers() {
    let data = DataDir::new();
    let (first, _) = Process::serve(&data.path(), &[]);
    let postmaster = data.postmaster().unwrap();
    // The server first: it would start another cluster.
    first.kill();
    kill(postmaster, Signal::KILL);
    let (second, base) = Process::serve(&data.path(), &[]);
    assert_ne!(data.postmaster(), Some(postmaster));
    ready(&base).await;
    assert!(second.terminate().success());
}

#[tokio::test]
async fn a_cluster_that_dies_under_a_running_server_is_started_again() {
    let data = DataDir::new();
    let (process, base) = Process::serve(&data.path(), &[]);
    let postmaster = data.postmaster().unwrap();
    kill(postmaster, Signal::KILL);
    until("another cluster runs and is ready", || async {
        let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
        (data.postmaster() != Some(postmaster) && answer.status() == 200).then_some(())
    })
    .await;
    assert!(process.terminate().success());
    assert_eq!(data.postmaster(), None);
}

#[tokio::test]
async fn a_process_id_that_went_to_another_process_does_not_stop_the_start() {
    let data = DataDir::new();
    let (first, _) = Process::serve(&data.path(), &[]);
    // The server first: it would start another cluster.
    first.kill();
    kill(data.postmaster().unwrap(), Signal::KILL);
    until("the backends are gone", || async { (!lives_in(&data)).then_some(()) }).await;
    // As in a container that was started anew: the number is ours now.
    for file in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
        let path = data.path().join("postgres").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let rest = text.split_once('\n').unwrap().1;
        std::fs::write(&path, format!("{}\n{rest}", std::process::id())).unwrap();
    }
    let (second, base) = Process::serve(&data.path(), &[]);
    ready(&base).await;
    assert!(second.terminate().success());
}

#[tokio::test]
async fn a_path_that_no_socket_can_have_gets_a_short_one() {
    let data = DataDir::new();
    let long = data.path().join(format!("{} 'with a quote, a comma and $HOME'", "x".repeat(90)));
    std::fs::create_dir_all(&long).unwrap();
    open_to_others(&data.path());
    open_to_others(&long);
    let (process, base) = Process::serve(&long, &[]);
    ready(&base).await;
    assert!(process.terminate().success());
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused_with_a_sentence() {
    let data = DataDir::new();
    let cluster = data.path().join("postgres/data");
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "9\n").unwrap();
    let folder = data.path();
    let settings = [("DRIFTLESS_DATA_DIR", folder.to_str().unwrap()), ("DRIFTLESS_LISTEN", "127.0.0.1:0")];
    let ended = crate::support::binary::run(crate::support::binary::driftless(&["serve"], &settings), "");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.err.contains("was made by PostgreSQL 9") && ended.err.contains("DRIFTLESS_PG_BIN"), "{}", ended.err);
}

fn open_to_others(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
}

/// Whether a process works in the cluster's folder (Linux; elsewhere nobody can tell).
fn lives_in(data: &DataDir) -> bool {
    let Ok(cluster) = data.path().join("postgres/data").canonicalize() else { return false };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok()).any(|cwd| cwd == cluster)
}
