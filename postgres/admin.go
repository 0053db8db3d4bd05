package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sqlUndefinedObject is SQLSTATE undefined_object: no such role, among others.
const sqlUndefinedObject = "42704"

// connectAdmin opens a session of the superuser on the private socket. What is
// said in it is not logged, and no setting of the database or of a role changes
// what it does.
func connectAdmin(ctx context.Context, sockets string, port int, database string) (*pgx.Conn, error) {
	// Whatever the environment says (PGHOST, PGOPTIONS, …) is replaced below.
	config, err := pgx.ParseConfig("host=/ port=1 user=x database=x sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("connect to admin socket: %w", err)
	}
	config.Host, config.Port = sockets, uint16(port)
	config.User, config.Database, config.Password = superuser, database, ""
	config.Fallbacks = nil
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.RuntimeParams = map[string]string{
		"application_name":              "bough",
		"client_encoding":               "UTF8",
		"default_transaction_read_only": "off",
		"lock_timeout":                  "0",
		"log_duration":                  "off",
		"log_min_duration_statement":    "-1",
		"log_min_error_statement":       "panic",
		"log_statement":                 "none",
		"search_path":                   "pg_catalog",
		"statement_timeout":             "0",
		"synchronous_commit":            "local", // no standby of the parent's is ours
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to admin socket %s/.s.PGSQL.%d: %w", sockets, port, err)
	}
	return conn, nil
}

// setPassword gives the role the password. Only a verifier of it is sent. A
// role that the user has dropped or renamed is left alone: false then.
func setPassword(ctx context.Context, conn *pgx.Conn, role, password string) (bool, error) {
	verifier, err := newVerifier(password)
	if err != nil {
		return false, err
	}
	// A utility statement takes no parameters. A verifier has nothing to quote.
	_, err = conn.Exec(ctx, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" PASSWORD '"+verifier+"'")
	var sqlErr *pgconn.PgError
	if errors.As(err, &sqlErr) && sqlErr.Code == sqlUndefinedObject {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("set password of role %s: %w", role, err)
	}
	return true, nil
}

// outwardSettings are the settings by which a server reaches others.
var outwardSettings = []string{
	"archive_mode", "archive_command", "archive_library", "archive_cleanup_command",
	"restore_command", "recovery_end_command", "primary_conninfo", "primary_slot_name",
	"synchronous_standby_names",
}

// severEffects undoes in the database what reaches out of it. It runs while no
// client can connect and no worker of a subscription is started. (Replication
// slots went before the server started, see prepareScript.)
func severEffects(ctx context.Context, conn *pgx.Conn, connect func(database string) (*pgx.Conn, error)) (undone []string, err error) {
	rows, err := conn.Query(ctx, `SELECT DISTINCT name FROM pg_file_settings
		WHERE sourcefile LIKE '%/postgresql.auto.conf' AND name = ANY($1) ORDER BY 1`, outwardSettings)
	if err != nil {
		return nil, fmt.Errorf("look for settings of the parent: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for settings of the parent: %w", err)
	}
	for _, name := range names {
		if _, err := conn.Exec(ctx, "ALTER SYSTEM RESET "+pgx.Identifier{name}.Sanitize()); err != nil {
			return nil, fmt.Errorf("reset %s of the parent: %w", name, err)
		}
		undone = append(undone, "setting "+name)
	}

	type subscription struct{ Database, Name string }
	rows, err = conn.Query(ctx, `SELECT d.datname AS database, s.subname AS name FROM pg_subscription s
		JOIN pg_database d ON d.oid = s.subdbid WHERE s.subenabled AND d.datallowconn ORDER BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("look for subscriptions of the parent: %w", err)
	}
	subs, err := pgx.CollectRows(rows, pgx.RowToStructByName[subscription])
	if err != nil {
		return nil, fmt.Errorf("look for subscriptions of the parent: %w", err)
	}
	for _, s := range subs {
		if err := disableSubscription(ctx, connect, s.Database, s.Name); err != nil {
			return nil, err
		}
		undone = append(undone, "subscription "+s.Database+"."+s.Name)
	}
	return undone, nil
}

func disableSubscription(ctx context.Context, connect func(string) (*pgx.Conn, error), database, name string) error {
	conn, err := connect(database)
	if err != nil {
		return fmt.Errorf("disable subscription %s of database %s: %w", name, database, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "ALTER SUBSCRIPTION "+pgx.Identifier{name}.Sanitize()+" DISABLE"); err != nil {
		return fmt.Errorf("disable subscription %s of database %s: %w", name, database, err)
	}
	return nil
}

// portName is the name of a socket for a port.
func portName(port int) string { return ".s.PGSQL." + strconv.Itoa(port) }
