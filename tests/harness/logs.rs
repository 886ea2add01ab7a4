//! What the processes of a farm logged: one JSON object a line.

use serde_json::Value;

/// The lines of a JSON log; a line that is no JSON is a defect of the program (or the last words of a panic).
pub fn lines(name: &str, log: &str) -> Vec<Value> {
    let parse = |line: &str| match serde_json::from_str(line) {
        Ok(Value::Object(line)) => Value::Object(line),
        Ok(_) | Err(_) => panic!("{name} logged something else than a JSON object: {line}"),
    };
    log.lines().map(parse).collect()
}

/// What a log, JSON or text, tells of errors.
pub fn errors(name: &str, log: &str) -> Vec<String> {
    if !log.starts_with('{') {
        return log.lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned).collect();
    }
    lines(name, log).iter().filter(|line| line["level"] == "ERROR").map(Value::to_string).collect()
}

/// The last lines of a log, for people.
pub fn tail(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
