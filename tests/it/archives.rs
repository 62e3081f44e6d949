//! Many files in one request: what goes in as a tar comes out as one, and what an archive must not do.

use reqwest::Method;

use crate::{
    support::{App, send},
    tree::{get, put},
};

async fn put_archive(app: &App, token: &str, path: &str, body: Vec<u8>) -> crate::support::Answer {
    send(app.request(Method::PUT, "/api/files/archive").query(&[("path", path)]).bearer_auth(token).body(body)).await
}

/// A tar made by tar itself.
fn tar(folder: &std::path::Path, arguments: &[&str]) -> Vec<u8> {
    let made =
        std::process::Command::new("tar").arg("-C").arg(folder).arg("-cf").arg("-").args(arguments).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[tokio::test]
async fn a_tar_of_many_files_goes_in_at_once_and_comes_out_the_same() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let folder = tempfile::tempdir().unwrap();
    for n in 0..600 {
        let place = folder.path().join(format!("d{}", n % 7));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(format!("file {n}")), format!("contents {n}")).unwrap();
    }
    let long = "n".repeat(200);
    std::fs::write(folder.path().join(&long), "long").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let received = put_archive(&app, &token, "/in", tar(folder.path(), &["."])).await.expect(200).json();
    assert_eq!((received["files"].as_u64(), received["refused_count"].as_u64()), (Some(601), Some(0)));
    assert_eq!(get(&app, &token, "/in/d3/file 10").await.expect(200).text(), "contents 10");

    let out = send(app.request(Method::GET, "/api/files/archive").query(&[("path", "/in")]).bearer_auth(&token)).await;
    let back = tempfile::tempdir().unwrap();
    let archive = back.path().join("a.tar");
    std::fs::write(&archive, out.expect(200).body).unwrap();
    let unpacked =
        std::process::Command::new("tar").arg("-C").arg(back.path()).arg("-xf").arg(&archive).status().unwrap();
    assert!(unpacked.success());
    let differ =
        std::process::Command::new("diff").arg("-r").arg(folder.path()).arg(back.path().join("in")).output().unwrap();
    assert!(differ.status.success(), "{}", String::from_utf8_lossy(&differ.stdout));
}

#[tokio::test]
async fn what_an_archive_must_not_hold_is_named_as_refused_and_the_rest_is_taken() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good"), "good").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    std::fs::hard_link(folder.path().join("good"), folder.path().join("hard")).unwrap();
    let archive = tar(folder.path(), &["--transform", "s,^dots,../../dots,", "-P", "good", "link", "hard"]);
    let received = put_archive(&app, &token, "/", archive).await.expect(200).json();
    assert_eq!(received["files"], 1);
    let refused = received["refused"].as_array().unwrap();
    assert!(refused.iter().all(|r| r["code"] == "archive.not_a_file"), "{refused:?}");
    std::fs::write(folder.path().join("dots"), "dots").unwrap();
    let archive = tar(folder.path(), &["--transform", "s,^dots,../../dots,", "-P", "dots"]);
    let received = put_archive(&app, &token, "/", archive).await.expect(200).json();
    assert_eq!(received["refused"][0]["code"], "path.dotdot");
    let absolute = folder.path().join("dots");
    let archive = tar(folder.path(), &["-P", absolute.to_str().unwrap()]);
    let received = put_archive(&app, &token, "/", archive).await.expect(200).json();
    assert_eq!(received["refused"][0]["code"], "archive.absolute");
    // A time that can't be kept is left out, and takes nothing else with it.
    let mut archive = tar(folder.path(), &["--format=pax", "--mtime=1970-01-02 00:00:00.123456789", "good"]);
    let at = archive.windows(7).position(|w| w == b" mtime=").unwrap() + 7;
    let value = archive[at..].iter().position(|b| *b == b'\n').unwrap();
    archive.splice(at..at + value, format!("{:0<value$}", "-999999999999.").bytes());
    let received = put_archive(&app, &token, "/old", archive).await.expect(200).json();
    assert_eq!(received["files"], 1);
    let cut = tar(folder.path(), &["good"])[..700].to_vec();
    put_archive(&app, &token, "/", cut).await.expect(422);
    put_archive(&app, &token, "/", vec![7; 4096]).await.expect(422);
    put(&app, &token, "/after", "x").await.expect(201);
}

#[tokio::test]
async fn of_a_name_that_comes_twice_the_last_one_wins_however_far_apart_they_are() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let folder = tempfile::tempdir().unwrap();
    let name = |n: usize| format!("file {n}");
    for n in 0..4_500 {
        std::fs::write(folder.path().join(name(n)), format!("first {}", n % 4_000)).unwrap();
    }
    let names: Vec<String> = (0..4_500).map(name).collect();
    let archive = folder.path().join("archive.tar");
    let tar = |verb: &str, names: &[String]| {
        let mut tar = std::process::Command::new("tar");
        assert!(tar.arg("-C").arg(folder.path()).arg(verb).arg(&archive).args(names).status().unwrap().success());
    };
    tar("-cf", &names);
    for n in [0, 1_999, 2_000, 4_499] {
        std::fs::write(folder.path().join(name(n)), "last").unwrap();
    }
    tar("-rf", &[name(0), name(1_999), name(2_000), name(4_499)]);
    let body = std::fs::read(&archive).unwrap();
    let received = put_archive(&app, &token, "/in", body).await.expect(200).json();
    assert_eq!((received["files"].as_u64(), received["refused_count"].as_u64()), (Some(4_504), Some(0)));
    for (n, text) in
        [(0, "last"), (1, "first 1"), (1_999, "last"), (2_000, "last"), (4_001, "first 1"), (4_499, "last")]
    {
        assert_eq!(get(&app, &token, &format!("/in/file {n}")).await.expect(200).text(), text, "file {n}");
    }
}
