use super::{Opt, Parsed, TABLE, Takes, Value, parse};

fn parsed(args: &[&str]) -> Result<Parsed, String> {
    parse(args.iter().map(Into::into)).map_err(|failure| failure.message)
}

#[test]
fn a_value_is_read_in_every_form_boost_reads() {
    let table: &[(&[&str], Opt, Value)] = &[
        (&["--id", "a"], Opt::Id, Value::Text("a".to_owned())),
        (&["--id=a"], Opt::Id, Value::Text("a".to_owned())),
        (&["--id=a=b"], Opt::Id, Value::Text("a=b".to_owned())),
        (&["--id=-x"], Opt::Id, Value::Text("-x".to_owned())),
        (&["--id", "-"], Opt::Id, Value::Text("-".to_owned())),
        (&["--id", ""], Opt::Id, Value::Text(String::new())),
        (&["--sc-port", "65535"], Opt::ScPort, Value::Port(65535)),
        (&["--sc-p", "80"], Opt::ScPort, Value::Port(80)),
        (&["--sc-p=80"], Opt::ScPort, Value::Port(80)),
        (&["--license", "k"], Opt::License, Value::Text("k".to_owned())),
        (&["--license-f", "k"], Opt::LicenseFile, Value::Text("k".to_owned())),
        (&["--ssr", "1"], Opt::Ssr, Value::Bool(true)),
        (&["--ssr", "on"], Opt::Ssr, Value::Bool(true)),
        (&["--ssr", "Yes"], Opt::Ssr, Value::Bool(true)),
        (&["--ssr=TRUE"], Opt::Ssr, Value::Bool(true)),
        (&["--csr", "0"], Opt::Csr, Value::Bool(false)),
        (&["--csr", "off"], Opt::Csr, Value::Bool(false)),
        (&["--csr", "no"], Opt::Csr, Value::Bool(false)),
        (&["--csr=false"], Opt::Csr, Value::Bool(false)),
        (&["--ssr-gpu-index", "3"], Opt::SsrGpuIndex, Value::Number(3)),
        (&["--liveliness-update-frequency", "0.25"], Opt::LivelinessUpdateFrequency, Value::Seconds(0.25)),
        (&["-h"], Opt::Help, Value::Given),
        (&["--help"], Opt::Help, Value::Given),
        (&["--he"], Opt::Help, Value::Given),
    ];
    for (args, opt, value) in table {
        let parsed = parsed(args).unwrap_or_else(|message| panic!("{args:?}: {message}"));
        assert_eq!(parsed.0.get(opt), Some(value), "{args:?}");
        assert_eq!(parsed.0.len(), 1, "{args:?}");
    }
}

#[test]
fn what_boost_refuses_is_refused_in_its_words() {
    let table: &[(&[&str], &str)] = &[
        (&["--nonsense", "1"], "unrecognised option '--nonsense'"),
        (&["--nonsense=1"], "unrecognised option '--nonsense'"),
        (&["-x"], "unrecognised option '-x'"),
        (&["-hx"], "unrecognised option '-hx'"),
        (&["--"], "unrecognised option '--'"),
        (&["--=1"], "unrecognised option '--'"),
        (&["stray"], "too many positional options have been specified on the command line"),
        (&["--help=1"], "option '--help' does not take any arguments"),
        (&["--id"], "the required argument for option '--id' is missing"),
        (&["--id", "--csr"], "the required argument for option '--id' is missing"),
        (&["--id", "-x"], "the required argument for option '--id' is missing"),
        (&["--csr"], "the required argument for option '--csr' is missing"),
        (&["--id="], "the argument for option '--id' should follow immediately after the equal sign"),
        (&["--id", "a", "--id", "a"], "option '--id' cannot be specified more than once"),
        (&["--id=a", "--i", "b"], "option '--i' is ambiguous and matches '--id', '--initial-use-duration'"),
        (
            &["--log-f", "x"],
            "option '--log-f' is ambiguous and matches '--log-file', '--log-file-category-mask'",
        ),
        (&["--csr", "maybe"], "the argument ('maybe') for option '--csr' is invalid"),
        (&["--csr", ""], "the argument ('') for option '--csr' is invalid"),
        (&["--sc-port", "http"], "the argument ('http') for option '--sc-port' is invalid"),
        (&["--sc-port", "0"], "the argument ('0') for option '--sc-port' is invalid"),
        (&["--sc-port", "65536"], "the argument ('65536') for option '--sc-port' is invalid"),
        (&["--sc-port=-1"], "the argument ('-1') for option '--sc-port' is invalid"),
        (
            &["--initial-use-duration", "1.5"],
            "the argument ('1.5') for option '--initial-use-duration' is invalid",
        ),
        (
            &["--liveliness-update-frequency", "inf"],
            "the argument ('inf') for option '--liveliness-update-frequency' is invalid",
        ),
    ];
    for (args, message) in table {
        assert_eq!(parsed(args).unwrap_err(), *message, "{args:?}");
    }
}

#[test]
fn every_option_of_the_table_can_be_given_once() {
    for spec in TABLE {
        let name = format!("--{}", spec.name);
        let args: Vec<&str> = match spec.takes {
            Takes::Nothing => vec![&name],
            Takes::Bool | Takes::Port | Takes::Number | Takes::Seconds | Takes::Text => {
                vec![&name, "1"]
            }
        };
        let parsed = parsed(&args).unwrap_or_else(|message| panic!("{name}: {message}"));
        assert!(parsed.0.contains_key(&spec.opt), "{name}");
    }
}
