//! SQL functions, and the script of CREATE EXTENSION: hand-written SQL in sql/, in this order.

mod event;
mod flush;
mod guard;
mod hold;
mod home;
mod integrity;
mod status;

use pgrx::extension_sql_file;

extension_sql_file!("../../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!(
    "../../sql/roles.sql",
    name = "roles",
    requires = ["bootstrap"]
);
extension_sql_file!(
    "../../sql/tables.sql",
    name = "tables",
    requires = ["roles"]
);
extension_sql_file!(
    "../../sql/functions.sql",
    name = "functions",
    requires = ["tables"]
);
extension_sql_file!(
    "../../sql/guard.sql",
    name = "guard",
    requires = ["functions"]
);
extension_sql_file!("../../sql/views.sql", name = "views", requires = ["guard"]);
extension_sql_file!(
    "../../sql/grants.sql",
    name = "grants",
    requires = ["views"]
);
extension_sql_file!(
    "../../sql/home.sql",
    name = "home",
    requires = ["grants"],
    finalize
);
