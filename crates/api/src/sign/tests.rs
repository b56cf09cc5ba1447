//! Vectors made by an official client, requests that official clients sent, and what must fail.

use serde_json::Value;

use super::*;

const NOW: &str = "20260115T080910Z";

fn fixture(text: &str, list: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(text).unwrap();
    document[list].as_array().unwrap().clone()
}

fn vectors() -> Vec<Value> {
    fixture(include_str!("../../tests/fixtures/signing-vectors.json"), "vectors")
}

fn recorded() -> Vec<Value> {
    fixture(include_str!("../../tests/fixtures/recorded-requests.json"), "requests")
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    secret: Vec<u8>,
}

impl Request {
    fn new(case: &Value, target: &str, headers: Vec<(String, String)>, body: &str) -> Self {
        let target = case[target].as_str().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: case["method"].as_str().unwrap().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: case[body].as_str().unwrap().as_bytes().to_vec(),
            secret: case["secret_key"].as_str().unwrap().as_bytes().to_vec(),
        }
    }

    fn vector(case: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let sent = case["headers_sent"].as_object().unwrap();
        let headers = sent.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        Self::new(case, "request_target", headers, "body_utf8")
    }

    fn recorded(case: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let sent = case["headers"].as_array().unwrap();
        let headers = sent.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
        Self::new(case, "target", headers, "body")
    }

    fn named(name: &str) -> Self {
        Self::vector(vectors().iter().find(|case| case["name"] == name).unwrap())
    }

    fn parts(&self) -> RequestParts<'_> {
        RequestParts {
            method: &self.method,
            raw_path: &self.path,
            raw_query: &self.query,
            headers: &self.headers,
            body: &self.body,
        }
    }

    fn now(&self) -> i64 {
        parse_date(single(&self.headers, DATE_HEADER).unwrap().unwrap()).unwrap()
    }

    fn verify(&self) -> Result<(), SignError> {
        verify(&self.parts(), &self.secret, self.now())
    }

    fn header(&mut self, name: &str) -> &mut String {
        &mut self.headers.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)).unwrap().1
    }

    /// Signs again what is there, as an official client would.
    fn resign(&mut self, form: QueryForm) {
        let names = credentials(&self.parts()).unwrap().signed_headers;
        let text = canonical_request(&self.parts(), &names, form).unwrap();
        let date = single(&self.headers, DATE_HEADER).unwrap().unwrap().to_owned();
        let signature = hex::encode(mac(&self.secret, &date, &text));
        let list = names.join(";");
        *self.header("authorization") =
            format!("{ALGORITHM} Access=AK, SignedHeaders={list}, Signature={signature}");
    }
}

#[test]
fn every_vector_of_the_official_signer() {
    let mut passed = 0;
    for case in vectors() {
        let name = case["name"].as_str().unwrap();
        let request = Request::vector(&case);
        match name {
            "derived-v11" => {
                let error = request.verify().unwrap_err();
                assert_eq!(error, SignError::Algorithm("V11-HMAC-SHA256".to_owned()));
                assert_eq!(error.code().code(), "APIGW.0301");
            }
            "non-json-unsigned-payload" => {
                let error = request.verify().unwrap_err();
                assert_eq!(error, SignError::UnsignedPayload);
                assert_eq!(error.code().code(), "APIGW.0301");
            }
            _ => {
                let names = credentials(&request.parts()).unwrap().signed_headers;
                let text = canonical_request(&request.parts(), &names, QueryForm::AsSent).unwrap();
                assert_eq!(text, case["canonical_request"].as_str().unwrap(), "{name}");
                assert_eq!(request.verify(), Ok(()), "{name}");
                let ak = case["access_key"].as_str().unwrap();
                let ours = sign(&request.parts(), ak, &request.secret).unwrap();
                assert_eq!(ours, case["authorization"].as_str().unwrap(), "{name}");
                passed += 1;
            }
        }
    }
    assert_eq!(passed, 10);
}

#[test]
fn every_recorded_request_of_official_clients() {
    let all = recorded();
    assert_eq!(all.len(), 15);
    for case in all {
        assert_eq!(Request::recorded(&case).verify(), Ok(()), "{}", case["target"]);
    }
}

#[test]
fn any_change_is_refused() {
    for case in recorded() {
        let names = credentials(&Request::recorded(&case).parts()).unwrap().signed_headers;
        for name in names.iter().filter(|name| *name != DATE_HEADER) {
            let mut request = Request::recorded(&case);
            request.header(name).push('x');
            assert_eq!(request.verify(), Err(SignError::Mismatch), "{name}");
            request.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
            assert_eq!(request.verify(), Err(SignError::HeaderAbsent(name.clone())));
        }
        let mutations: [fn(&mut Request); 7] = [
            |r| r.body.push(b' '),
            |r| r.path.push('x'),
            |r| r.query.push_str("&x=1"),
            |r| r.method = "PUT".to_owned(),
            |r| r.secret.push(b'x'),
            |r| *r.header("x-sdk-date") = r.header("x-sdk-date").replace("3T", "4T"),
            |r| {
                let end = r.header("authorization").pop().unwrap();
                r.header("authorization").push(if end == '0' { '1' } else { '0' });
            },
        ];
        for (index, mutate) in mutations.iter().enumerate() {
            let mut request = Request::recorded(&case);
            mutate(&mut request);
            assert_eq!(request.verify(), Err(SignError::Mismatch), "mutation {index}");
        }
    }
    let mut post = Request::named("upgrade-post-json");
    for index in 0..post.body.len() {
        post.body[index] ^= 1;
        assert_eq!(post.verify(), Err(SignError::Mismatch), "body byte {index}");
        post.body[index] ^= 1;
    }
    assert_eq!(post.verify(), Ok(()));
}

#[test]
fn the_clock_may_differ_by_fifteen_minutes_and_no_second_more() {
    let request = Request::named("get-empty-body");
    let sent = parse_date(NOW).unwrap();
    assert_eq!(sent, 1_768_464_550);
    assert_eq!(date_header(sent), NOW);
    let at = |now| verify(&request.parts(), &request.secret, now);
    for offset in [-900, -899, 0, 899, 900] {
        assert_eq!(at(sent + offset), Ok(()), "{offset}");
    }
    for offset in [-901, 901, i64::MAX - sent] {
        let error = at(sent + offset).unwrap_err();
        assert!(matches!(error, SignError::Skew { .. }), "{offset}");
        assert_eq!((error.code().code(), error.code().http_status()), ("APIGW.0303", 401));
    }
}

#[test]
fn dates_have_one_form() {
    for bad in [
        "",
        "20260115T080910",
        "2026-01-15T08:09Z",
        "20261315T080910Z",
        "20260115T250910Z",
        "+0260115T080910Z",
        "20260115t080910Z",
        "20260115T0809é0Z",
    ] {
        let mut request = Request::named("get-empty-body");
        *request.header("x-sdk-date") = bad.to_owned();
        let error = verify(&request.parts(), &request.secret, parse_date(NOW).unwrap());
        assert_eq!(error, Err(SignError::DateMalformed), "{bad}");
    }
}

#[test]
fn nothing_ambiguous_is_read() {
    let now = parse_date(NOW).unwrap();
    let fails = |change: fn(&mut Request)| {
        let mut request = Request::named("upgrade-post-json");
        change(&mut request);
        verify(&request.parts(), &request.secret, now).unwrap_err()
    };
    let push = |r: &mut Request, name: &str, value: &str| {
        r.headers.push((name.to_owned(), value.to_owned()));
    };
    let twice = |name: &str| SignError::DuplicateHeader(name.to_owned());
    assert_eq!(fails(|r| r.headers.retain(|(n, _)| n != "Authorization")), SignError::Missing);
    assert_eq!(fails(|r| r.headers.retain(|(n, _)| n != "X-Sdk-Date")), SignError::DateNotSigned);
    assert_eq!(
        fails(|r| *r.header("authorization") = r.header("authorization").replace(";x-sdk-date", "")),
        SignError::DateNotSigned
    );
    for (name, error) in [
        ("AUTHORIZATION", twice("authorization")),
        ("X-SDK-DATE", twice("x-sdk-date")),
        ("host", twice("host")),
        ("x-auth-token", SignError::TwoCredentials),
        ("x-sdk-content-sha256", SignError::BodyHash),
    ] {
        let mut request = Request::named("upgrade-post-json");
        push(&mut request, name, "x");
        assert_eq!(verify(&request.parts(), &request.secret, now), Err(error));
    }
    let mut stated = Request::named("upgrade-post-json");
    let hash = hex::encode(Sha256::digest(&stated.body));
    push(&mut stated, "X-Sdk-Content-Sha256", &hash);
    assert_eq!(stated.verify(), Ok(()), "a true hash is no harm");
}

#[test]
fn path_tricks_are_refused_even_if_signed() {
    for path in [
        "/v3/../x",
        "/v3/./x",
        "/v3//x",
        "/v3/%2e%2E/x",
        "/v3/a%2Fb",
        "/v3/a%2fb",
        "/v3/a%5Cb",
        "/v3/a\\b",
        "/v3/a%00b",
        "/v3/%ff",
        "/v3/%",
        "/v3/%zz",
        "/v3/%252F",
        "v3",
    ] {
        let mut request = Request::named("get-empty-body");
        request.path = path.to_owned();
        if canonical_uri(path).is_ok() {
            request.resign(QueryForm::AsSent);
        }
        assert!(matches!(request.verify(), Err(SignError::Path(_))), "{path}");
    }
}

#[test]
fn query_keys_may_be_signed_in_lower_case_but_not_meet_in_two_cases() {
    let mut request = Request::named("query-sorted-bool-int");
    request.resign(QueryForm::LowerCaseKeys);
    assert_eq!(request.verify(), Ok(()));
    for query in ["a=1&A=2", "limit=1&LIMIT=1", "a=%zz", "a=%ff", "a=%00"] {
        request.query = query.to_owned();
        if canonical_query(query, QueryForm::AsSent).is_ok() {
            request.resign(QueryForm::AsSent);
        }
        assert!(matches!(request.verify(), Err(SignError::Query(_))), "{query}");
    }
    request.query = "b=1&a=x+y&a=%20".to_owned();
    request.resign(QueryForm::AsSent);
    assert_eq!(request.verify(), Ok(()));
    assert_eq!(canonical_query(&request.query, QueryForm::AsSent).unwrap(), "a=%20&a=x%20y&b=1");
}

#[test]
fn malformed_headers_and_other_algorithms() {
    let hex64 = "0".repeat(64);
    let good = format!("SDK-HMAC-SHA256 Access=AK, SignedHeaders=a;x-sdk-date, Signature={hex64}");
    let credentials = parse_authorization(&good).unwrap();
    assert_eq!(credentials.ak, "AK");
    assert_eq!(credentials.signed_headers, ["a", "x-sdk-date"]);
    for algorithm in ["SDK-HMAC-SM3", "SDK-ECDSA-P256-SHA256", "V11-HMAC-SHA256", "Bearer", ""] {
        let header = good.replace("SDK-HMAC-SHA256", algorithm);
        assert!(matches!(parse_authorization(&header), Err(SignError::Algorithm(_))));
    }
    for (from, to) in [
        ("Access=AK", "Access="),
        ("Access=AK", "Access=A K"),
        ("=AK", "=AK, Access=B"),
        ("a;x", "A;x"),
        ("a;x", ";x"),
        ("a;x", "a;a;x"),
        ("a;x", "authorization;x"),
        ("=000", "=00"),
        ("=000", "=zzz"),
        ("Signature", "Sig"),
        ("Access=AK, ", ""),
    ] {
        let header = good.replacen(from, to, 1);
        assert!(matches!(parse_authorization(&header), Err(SignError::Malformed(_))), "{header}");
    }
}

#[test]
fn an_unknown_key_reads_like_a_wrong_signature() {
    let request = Request::named("upgrade-post-json");
    let unknown = refuse_unknown_key(&request.parts(), request.now());
    let wrong = verify(&request.parts(), b"wrong", request.now()).unwrap_err();
    assert_eq!(unknown, wrong);
    assert_eq!(
        unknown.to_string(),
        "Incorrect IAM authentication information: verify aksk signature fail"
    );
}
