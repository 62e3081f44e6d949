//! The names of path parameters. poem-openapi numbers them in its errors (`param0`); people know them as the document does.

use std::sync::OnceLock;

use poem::http::Method;

/// An operation's method and the segments of its path; a parameter's stands in braces.
struct Template {
    method: String,
    segments: Vec<String>,
}

impl Template {
    /// How many segments agree literally, if `path` fits at all.
    fn fits(&self, path: &[&str]) -> Option<usize> {
        let fits = self.segments.len() == path.len()
            && self.segments.iter().zip(path).all(|(own, other)| parameter(own).is_some() || own == other);
        fits.then(|| self.segments.iter().filter(|own| parameter(own).is_none()).count())
    }
}

fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The name of what failed as `numbered` in a request to `path`.
pub(crate) fn name(method: &Method, path: &str, numbered: &str) -> Option<String> {
    let number: usize = numbered.strip_prefix("param")?.parse().ok()?;
    let path: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let (_, template) = templates()
        .iter()
        .filter(|template| template.method == method.as_str())
        .filter_map(|template| Some((template.fits(&path)?, template)))
        .max_by_key(|(literal, _)| *literal)?;
    template.segments.iter().filter_map(|segment| parameter(segment)).nth(number).map(str::to_owned)
}

fn templates() -> &'static [Template] {
    static TEMPLATES: OnceLock<Vec<Template>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let document: serde_json::Value =
            serde_json::from_str(&crate::openapi()).expect("the document that we write is JSON");
        let paths = document["paths"].as_object().into_iter().flatten();
        let templates = paths.flat_map(|(path, operations)| {
            let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
            let methods = operations.as_object().into_iter().flat_map(|operations| operations.keys());
            methods.map(move |method| Template { method: method.to_uppercase(), segments: segments.clone() })
        });
        templates.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_by_its_name_in_the_document() {
        for (method, path, numbered, expected) in [
            (Method::GET, "/api/sync/runs/x", "param0", Some("run_id")),
            (Method::GET, "/api/jobs/x", "param0", Some("job_id")),
            (Method::POST, "/api/sync/upload/x/chunk/y", "param1", Some("chunk_number")),
            (Method::POST, "/api/sync/upload/x/chunk/y", "param2", None),
            (Method::GET, "/api/nothing/x", "param0", None),
            (Method::GET, "/api/jobs/x", "limit", None),
        ] {
            assert_eq!(name(&method, path, numbered).as_deref(), expected, "{method} {path} {numbered}");
        }
    }
}
