/* sqlite in memory: inserts, an index, joins, aggregates, updates, deletes. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static sqlite3 *db;

static void run(const char *sql) {
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, message);
        exit(1);
    }
}

static int print_row(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)names;
    for (int i = 0; i < columns; i++) printf("%s%c", values[i] ? values[i] : "NULL", i + 1 < columns ? ' ' : '\n');
    return 0;
}

static void query(const char *sql) {
    if (sqlite3_exec(db, sql, print_row, NULL, NULL) != SQLITE_OK) exit(2);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    if (sqlite3_open(":memory:", &db) != SQLITE_OK) return 3;
    for (int round = 0; round < rounds; round++) {
        sqlite3_stmt *insert;
        run("create table item(id integer primary key, name text, price real, kind int)");
        run("create table sale(item int, amount int)");
        run("begin");
        if (sqlite3_prepare_v2(db, "insert into item values(?, ?, ?, ?)", -1, &insert, NULL) != SQLITE_OK) return 4;
        for (int i = 0; i < 4000; i++) {
            char name[32];
            sqlite3_bind_int(insert, 1, i);
            sqlite3_bind_text(insert, 2, name, sprintf(name, "item %d", i * 7919 % 4001), SQLITE_TRANSIENT);
            sqlite3_bind_double(insert, 3, i % 97 * 0.25);
            sqlite3_bind_int(insert, 4, i % 13);
            sqlite3_step(insert);
            sqlite3_reset(insert);
        }
        sqlite3_finalize(insert);
        run("commit");
        run("with recursive n(i) as (select 0 union all select i + 1 from n where i < 7999) "
            "insert into sale select i * 31 % 4000, i % 7 + 1 from n");
        run("create index by_name on item(name)");
        run("create index by_item on sale(item)");
        query("select kind, count(*), sum(price), min(name) from item group by kind order by 3 desc limit 3");
        query("select sum(amount * price) from sale join item on item.id = sale.item where kind < 7");
        query("select name from item where name like '%99%' order by price, name limit 3");
        run("update item set price = price * 1.5 where kind in (select kind from item where id % 10 = 3)");
        run("delete from sale where amount = 3");
        query("select count(*), max(price) from item left join sale on sale.item = item.id where amount is null");
        query("select substr(name, 6), upper(name), length(name) from item where name between 'item 5' and 'item 6' "
              "order by name desc limit 2");
        run("drop table item");
        run("drop table sale");
    }
    sqlite3_close(db);
    return 0;
}
