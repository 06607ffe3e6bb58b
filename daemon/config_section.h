/* config_section.h: the sections of a configuration, from the tree into struct md_config. Inside daemon/config_*.c
 * only. */
#ifndef MD_CONFIG_SECTION_H
#define MD_CONFIG_SECTION_H

#include "daemon/config_table.h"

/* Each reads its section of the root map (left out: nothing or defaults) and reports what is wrong in it. */
void md_read_models(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_inputs(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_outputs(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_streams(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_batch(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_state(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_server(struct md_config *config, struct md_report *report, const struct md_node *root);
void md_read_log(struct md_config *config, struct md_report *report, const struct md_node *root);

/* Reports what two adapters, or an adapter and the server, want for themselves. */
void md_check_sole(const struct md_config *config, struct md_report *report, const struct md_node *root);

/* Reports, and marks as wrong, what this version does not have yet. `type`: the adapter's, or NULL. */
void md_refuse_later(struct md_report *report, struct md_node *map, const char *section, const char *type,
                     const char *path);

/* The ids of a section as names for a hint; at most MD_KEYS. */
unsigned md_model_names(const struct md_config *config, const char *names[MD_KEYS]);

#endif
