"""The messages `tf.train.Example` and `SequenceExample` of TensorFlow's record files, without TensorFlow.

They are TensorFlow's example.proto and feature.proto (proto3), field by field, in a descriptor pool of their own, so
that a process may load TensorFlow beside them. The copy in tensorflow-datasets would take half a second to import.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"bytes": _Field.TYPE_BYTES, "float": _Field.TYPE_FLOAT, "int64": _Field.TYPE_INT64}
_MESSAGES = {  # message: {field: type}, numbered from 1; "repeated T", and "map T" from strings to T
    "BytesList": {"value": "repeated bytes"},
    "FloatList": {"value": "repeated float"},
    "Int64List": {"value": "repeated int64"},
    "Feature": {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"},  # one of them
    "Features": {"feature": "map Feature"},
    "FeatureList": {"feature": "repeated Feature"},
    "FeatureLists": {"feature_list": "map FeatureList"},
    "Example": {"features": "Features"},
    "SequenceExample": {"context": "Features", "feature_lists": "FeatureLists"},
}


def _add_field(message, name: str, number: int, text: str) -> None:
    *kind, value = text.split()
    field = message.field.add(name=name, number=number, label=_Field.LABEL_REPEATED if kind else _Field.LABEL_OPTIONAL)
    if kind == ["map"]:
        entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        _add_field(entry, "value", 2, value)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".tensorflow.{message.name}.{entry.name}"
    elif value in _SCALARS:
        field.type = _SCALARS[value]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".tensorflow.{value}"


def _messages() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="examples.proto", package="tensorflow", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, text) in enumerate(fields.items(), 1):
            _add_field(message, field, number, text)
        if name == "Feature":
            message.oneof_decl.add(name="kind")
            for field in message.field:
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}")) for name in _MESSAGES
    }


_classes = _messages()
Example, SequenceExample = _classes["Example"], _classes["SequenceExample"]
