//! Health, the documents, and the shape of errors before any handler runs.

use crate::support::App;

#[tokio::test(flavor = "multi_thread")]
async fn a_started_server_is_healthy_and_ready_and_shows_its_documents() {
    let app = App::start().await;
    assert_eq!(app.get("/healthz").await.status, 200);
    app.ready().await;
    assert_eq!(app.get("/api/openapi.json").await.json()["info"]["title"], "Driftless");
    assert!(app.get("/docs").await.text().contains("swagger"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_route_of_the_api_is_a_problem_with_the_id_of_the_request() {
    let app = App::start().await;
    let answer = app.get("/api/nothing-here").await;
    assert_eq!((answer.status, answer.code()), (404, "route.not_found"));
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
}
