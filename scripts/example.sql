-- Played by `make run`; every statement below should turn up in audit.log, the failing ones too.
SET application_name = 'example';
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace');
SELECT name FROM users ORDER BY id;
-- fails: the key exists
INSERT INTO users VALUES (1, 'Eve');
-- another user, who may read only
CREATE ROLE auditor_example LOGIN;
GRANT SELECT ON users TO auditor_example;
SET SESSION AUTHORIZATION auditor_example;
SELECT count(*) FROM users;
-- denied
DELETE FROM users;
RESET SESSION AUTHORIZATION;
-- undone, and still on record
BEGIN;
UPDATE users SET name = 'nobody' WHERE id = 2;
ROLLBACK;
DROP TABLE users;
DROP ROLE auditor_example;
