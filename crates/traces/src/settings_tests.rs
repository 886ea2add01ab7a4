//! What is read from the variables, and what is refused.

use super::*;

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
    Settings::read(|name| {
        Ok(variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    })
}

#[test]
fn traces_are_off_unless_there_is_an_endpoint() {
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:4317");
    for (on, variables) in [
        (false, &[][..]),
        (false, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
        (false, &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "always_on")]),
        (true, &[COLLECTOR]),
        (true, &[traces]),
        (true, &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_SDK_DISABLED", "false")]),
        (false, &[COLLECTOR, ("OTEL_SDK_DISABLED", "TRUE")]),
        (false, &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")]),
    ] {
        assert_eq!(read(variables).unwrap().is_some(), on, "{variables:?}");
    }
    let both = read(&[COLLECTOR, traces]).unwrap().unwrap();
    assert_eq!(both.endpoint, "http://other:4317");
    assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317/")]).unwrap().is_some());
}

#[test]
fn over_http_batches_go_to_a_path_of_their_own() {
    let endpoint = |variable: &str, url: &str| {
        let settings = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), (variable, url)]);
        settings.map(|settings| settings.unwrap().endpoint.to_string())
    };
    for (url, found) in [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/otlp", "https://collector/otlp/v1/traces"),
        ("https://collector/otlp/", "https://collector/otlp/v1/traces"),
    ] {
        assert_eq!(endpoint("OTEL_EXPORTER_OTLP_ENDPOINT", url).unwrap(), found);
    }
    let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    assert_eq!(endpoint(own, "http://collector:4318/spans").unwrap(), "http://collector:4318/spans");
    for refused in ["http://collector:4318?key=hush", "http://hush@collector", "collector:4318", "http://"] {
        let error = endpoint(own, refused).unwrap_err();
        assert!(error.variable == own && !error.to_string().contains("hush"), "{refused}: {error}");
    }
    assert_eq!(read(&[COLLECTOR]).unwrap().unwrap().protocol, Protocol::Grpc);
}

#[test]
fn what_is_not_said_is_as_the_specification_has_it() {
    let settings = read(&[COLLECTOR]).unwrap().unwrap();
    let batches =
        Batches { delay: Duration::from_secs(5), queue: 2048, size: 512, timeout: Duration::from_secs(30) };
    assert_eq!((settings.batches, settings.timeout), (batches, Duration::from_secs(10)));
    assert_eq!(settings.sampler, Sampler { root: Root::On, parent_based: true });
    let small = read(&[COLLECTOR, ("OTEL_BSP_MAX_QUEUE_SIZE", "100")]).unwrap().unwrap();
    assert_eq!((small.batches.queue, small.batches.size), (100, 100));
}

#[test]
fn samplers_headers_and_attributes_are_read() {
    let sampler = |name, argument: &str| {
        let variables = [COLLECTOR, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)];
        read(&variables).unwrap().unwrap().sampler
    };
    for (name, argument, root, parent_based) in [
        ("always_on", "", Root::On, false),
        ("parentbased_always_off", "", Root::Off, true),
        ("traceidratio", "0.25", Root::Ratio(0.25), false),
        ("parentbased_traceidratio", "", Root::Ratio(1.0), true),
        ("parentbased_always_on", "not used", Root::On, true),
    ] {
        assert_eq!(sampler(name, argument), Sampler { root, parent_based }, "{name} {argument}");
    }
    let settings = read(&[
        COLLECTOR,
        ("OTEL_EXPORTER_OTLP_HEADERS", "X-Team=a%20b,api-key=k"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=y"),
    ]);
    let settings = settings.unwrap().unwrap();
    assert_eq!(settings.metadata.get("x-team").unwrap(), "a b");
    assert_eq!(settings.metadata.get("api-key").unwrap(), "k");
    assert_eq!((settings.timeout, settings.resource.len()), (Duration::from_millis(250), 2));
}

#[test]
fn a_value_that_is_not_understood_names_its_variable_and_no_secret() {
    for (variable, value) in [
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://hush@collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/otel"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317/hush"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317?key=hush"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/hush"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hush"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hush"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=hush%0a"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/certificate"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "soon"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
    ] {
        let error = read(&[COLLECTOR, (variable, value)]).unwrap_err();
        assert_eq!(error.variable, variable);
        let text = error.to_string();
        assert!(text.starts_with(&format!("invalid {variable}: ")) && !text.contains("hush"), "{text}");
    }
    for ratio in ["x", "1.1", "-0.1", "NaN"] {
        let variables =
            [COLLECTOR, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
        assert_eq!(read(&variables).unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG", "{ratio}");
    }
}
