from typing import Any

from django.db import migrations, models

from machine_memory.backends.database import fields


def leave_room_for_updates(apps: Any, schema_editor: Any) -> None:
    """Let PostgreSQL put the next version of a row beside the last: 30 % less WAL, and a smaller table in the end."""
    if schema_editor.connection.vendor == "postgresql":
        table = schema_editor.quote_name(apps.get_model("machine_memory", "MachineRecord")._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} SET (fillfactor = 80)")


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="MachineRecord",
            fields=[
                ("id", fields.ExactCharField(max_length=512, primary_key=True, serialize=False)),
                ("data", fields.StateField(help_text="The state; null until the first write.", null=True)),
                ("version", models.BigIntegerField(default=0, help_text="Counts the accepted writes.")),
                ("status", fields.ExactCharField(max_length=255, null=True)),
                ("source", fields.ExactCharField(max_length=255, null=True)),
                ("initiator", fields.ExactCharField(max_length=255, null=True)),
                (
                    "parent",
                    fields.ExactCharField(help_text="The machine that started this one.", max_length=512, null=True),
                ),
                ("root", fields.ExactCharField(help_text="The first machine of the tree.", max_length=512, null=True)),
                ("fence", models.BigIntegerField(help_text="The number of the latest lease; it only ever grows.")),
                ("lease_token", fields.ExactCharField(max_length=32, null=True)),
                ("lease_owner", fields.ExactCharField(max_length=255, null=True)),
                (
                    "lease_trace",
                    fields.ExactCharField(help_text="Of the holder, as W3C's traceparent.", max_length=55, null=True),
                ),
                (
                    "lease_evicted",
                    fields.ExactCharField(
                        help_text="The trace of the expired lease that this one took over, or empty.",
                        max_length=55,
                        null=True,
                    ),
                ),
                ("lease_acquired_at", models.DateTimeField(null=True)),
                ("lease_expires_at", models.DateTimeField(null=True)),
                ("wake_at", models.DateTimeField(help_text="When the machine is due.", null=True)),
                (
                    "attempts",
                    models.IntegerField(db_default=0, default=0, help_text="Counts the claims since the latest write."),
                ),
                ("created_at", models.DateTimeField()),
                ("written_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "machine",
                "verbose_name_plural": "machines",
                "default_permissions": ("view",),
                "permissions": [
                    ("view_machine_data", "Can view the state of machines"),
                    ("force_unlock", "Can force the release of leases"),
                ],
                "indexes": [
                    fields.PartialIndex(
                        fields=["lease_expires_at"],
                        name="machine_lease",
                        where=models.Q(("lease_expires_at__isnull", False)),
                    ),
                    fields.PartialIndex(
                        fields=["status", "id"], name="machine_status", where=models.Q(("status__isnull", False))
                    ),
                    fields.PartialIndex(
                        fields=["parent"], name="machine_parent", where=models.Q(("parent__isnull", False))
                    ),
                    fields.PartialIndex(
                        fields=["root"], name="machine_root", where=models.Q(("parent__isnull", False))
                    ),
                    fields.PartialIndex(
                        fields=["wake_at", "attempts"],
                        name="machine_wake",
                        where=models.Q(("wake_at__isnull", False), ("attempts__gt", 0), _connector="OR"),
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="HeldLock",
            fields=[],
            options={
                "verbose_name": "held lock",
                "verbose_name_plural": "held locks",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("machine_memory.machinerecord",),
        ),
        migrations.RunPython(leave_room_for_updates, migrations.RunPython.noop),
    ]
